"""Load a SQLMesh project and turn it into a manifest. The entry is `project.load_project`."""
