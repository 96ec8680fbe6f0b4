"""Publish exports on the Hugging Face Hub; run by its name alone."""
