"""Files and filesystems of a Linux machine, reached by descriptors only."""
