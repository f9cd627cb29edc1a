"""What a run is asked and told: by the command line, by the gateway, by signals."""
