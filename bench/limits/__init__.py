"""What a device allows at most, and how measured cells compare with it."""
