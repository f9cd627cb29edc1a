"""`wsraw conform`: plays the gateway for one worker, and checks the worker rule by rule."""
