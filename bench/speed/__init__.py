"""How fast a served model is: one client, pure measures, validity checks, and the sweep that joins them."""
