"""From the command line to checked, frozen run specs."""
