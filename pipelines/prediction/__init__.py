"""What stands behind `segray predict`."""
