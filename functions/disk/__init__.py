"""The disk domain: filesystems that run out of bytes or inodes."""
