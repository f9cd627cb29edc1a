"""The load of a drill: clients that verify every byte."""
