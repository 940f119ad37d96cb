"""The main job: many configurations of one model, measured into a folder that can be resumed, and its report."""
