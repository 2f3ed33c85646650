"""Diagnosis of a training from its run directory alone, while it goes on and afterwards."""
