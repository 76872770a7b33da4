"""What a sample is. A modality says how to check, encode, decode and show its samples."""
