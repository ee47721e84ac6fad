"""DICOM in: files → headers → series → geometry → pixels → values → Volume."""
