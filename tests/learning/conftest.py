"""Its presence lets the tests of the folders below import `small_encoders`."""
