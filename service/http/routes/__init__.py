"""The routes: they do the HTTP things and hand everything else to the engine."""
