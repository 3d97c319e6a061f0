"""One data set a file: ``build("train" | "val", root=...)`` lists samples and reads them one at a time."""
