"""The typed configuration, one module a section, so that an edit of a section counts only for the stages that read it."""
