"""Where what happens in a run is told, beside the screen: files and services, each a plugin."""
