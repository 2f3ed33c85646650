"""What is wrong with a training, and why: from the run directory alone, while it goes on and afterwards."""
