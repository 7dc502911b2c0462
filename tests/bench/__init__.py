"""How fast, as ratios against references in the same run; `make bench` runs them all."""
