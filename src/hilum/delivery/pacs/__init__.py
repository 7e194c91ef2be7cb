"""The picture archive: DICOM studies in, structured reports out."""
