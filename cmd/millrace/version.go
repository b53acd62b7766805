package main

import (
	"fmt"
	"io"
	"runtime/debug"
)

// versionCmd shows the version.
type versionCmd struct{}

// Run prints the module's version, the revision it was built from and Go's version.
func (*versionCmd) Run(out io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return fmt.Errorf("the binary was built without build information")
	}
	_, err := fmt.Fprintln(out, versionText(info))
	return err
}

func versionText(info *debug.BuildInfo) string {
	version := info.Main.Version
	if version == "" || version == "(devel)" {
		version = "development"
	}
	revision := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = " revision " + s.Value + revision
		case s.Key == "vcs.modified" && s.Value == "true":
			revision += ", changed"
		}
	}
	return "millrace " + version + revision + " " + info.GoVersion
}
