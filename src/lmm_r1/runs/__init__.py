"""What a run leaves on disk and shows on the screen: folder, checkpoints, tracker, provenance, live view."""
