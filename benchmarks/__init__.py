"""Timings and memory against other programs, side by side on one machine; nothing in the package imports them."""
