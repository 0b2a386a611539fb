//go:build never

// Package compose names what build.sh builds, so that go.mod keeps it.
package compose

import _ "github.com/docker/compose/v2/cmd"
