"""`segray predict`: a trained network over a folder of images."""
