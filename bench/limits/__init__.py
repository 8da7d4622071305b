"""The physical limits of a device, and how measured cells compare with them."""
