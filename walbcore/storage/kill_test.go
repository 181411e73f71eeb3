package storage

const childVariable = "WALBSH_STORAGE_CHILD"

func runChild(spec string) {}
