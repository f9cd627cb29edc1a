"""`wsraw conform`: plays the gateway for one worker, and checks it rule by rule."""
