package main

import "fmt"

// originalGroup is the volume group of an archive that is not told one.
const originalGroup = "vg"

// storeOptions say how an archive keeps its images.
type storeOptions struct{ kind, group, pool *string }

func (d *daemon) addStore() storeOptions {
	return storeOptions{
		kind:  d.opts.text("store", "W", "", "files or lvm: what images are kept in; default lvm with -vg, else files"),
		group: d.opts.text("vg", "NAME", "", "volume group of images in LVM; default "+originalGroup+" with -store lvm"),
		pool:  d.opts.text("tp", "NAME", "", "thin pool in it; without one images are ordinary logical volumes"),
	}
}

// groupAndPool gives the volume group and thin pool; both are empty for images
// in files.
func (o storeOptions) groupAndPool() (group, pool string) {
	group = *o.group
	switch {
	case *o.kind == "files":
		return "", ""
	case *o.kind == "lvm" && group == "":
		group = originalGroup
	}
	return group, *o.pool
}

func (o storeOptions) check() error {
	if k := *o.kind; k != "" && k != "files" && k != "lvm" {
		return fmt.Errorf("bad -store:%s: expected files or lvm", k)
	}
	if group, pool := o.groupAndPool(); group == "" && pool != "" {
		return fmt.Errorf("bad -tp:%s: a thin pool is in a volume group, which -vg names", pool)
	}
	return nil
}

func (o storeOptions) warnings() []string {
	if *o.kind == "files" && *o.group+*o.pool != "" {
		return []string{"-vg and -tp have no effect with -store files"}
	}
	return nil
}
