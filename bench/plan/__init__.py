"""What a command will do, need and take, before it does anything."""
