"""The base class of every optimizer."""
