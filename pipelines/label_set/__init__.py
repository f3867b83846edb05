"""The label set on disk, and files on local disks and object stores."""
