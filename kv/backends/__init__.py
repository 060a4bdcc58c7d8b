"""One file per backend, both colours in it. Imports nothing: a backend is loaded when its URL or class is used."""
