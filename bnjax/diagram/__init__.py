"""Given a scenario and axes: its phases on a grid, exact and simulated."""

from ._phase_diagram import phase_diagram as phase_diagram
