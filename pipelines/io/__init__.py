"""Images, masks and files on local disks and object stores."""
