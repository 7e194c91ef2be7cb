"""From a judged encoder to an answer over HTTP."""
