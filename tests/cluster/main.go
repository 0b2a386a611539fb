// One program that is every component of the test cluster, told apart by the name it is called by (a link to it), as busybox does.
//
// Without a build tag it is the control plane's half: etcd, kube-apiserver and kubectl, all that the tests of tests/cluster need. With
// `-tags node` it is the whole of Kubernetes: node.go adds the components that a pod needs to run.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// Cobra's commands by the name that calls them; etcd has a main of its own.
var components = map[string]func() *cobra.Command{
	"kube-apiserver": apiserver.NewAPIServerCommand,
	"kubectl":        func() *cobra.Command { return cmd.NewDefaultKubectlCommand() },
}

func main() {
	name := filepath.Base(os.Args[0])
	if name == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	command, known := components[name]
	if !known {
		names := []string{"etcd"}
		for other := range components {
			names = append(names, other)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "no component is named `%s`: call this program by a link named %s\n", name, strings.Join(names, ", "))
		os.Exit(2)
	}
	os.Exit(cli.Run(command()))
}
