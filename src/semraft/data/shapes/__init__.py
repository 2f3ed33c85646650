"""Layered scenes for pre-training: objects of any outline over a background, each moving in its own way."""
