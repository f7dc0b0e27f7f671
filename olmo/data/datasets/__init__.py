"""Data sets on disk, one declaration each; ``declare`` has the machinery."""
