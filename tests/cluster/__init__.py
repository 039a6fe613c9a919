"""Real daemons, real servers, real faults, and the histories that clients record meanwhile."""
