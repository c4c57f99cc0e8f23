"""The HTTP side: dialects in and out. No recognition logic."""
