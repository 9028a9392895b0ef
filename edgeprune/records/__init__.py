"""Records: frozen dataclasses that flow between rooms, and their JSON codec. Standard library only."""
