"""First description of a folder of files: which are frames, flow and labels, and which belong together."""
