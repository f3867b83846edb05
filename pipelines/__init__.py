"""What moves images: Ray Data, files, configuration, the command line."""
