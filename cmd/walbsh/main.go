// Command walbsh operates and serves WalB backup groups.
package main

func main() {}
