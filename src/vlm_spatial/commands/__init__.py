"""Commands of ``vlm-spatial``, one module each; heavy libraries are imported only when a command runs."""
