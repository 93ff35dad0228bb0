// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/sluice-push/sluice/deploy/deploytest"
)

const (
	repository  = "../.."
	testVersion = "1.2.3"
)

// testTarget is this machine. The image and the packages are for Linux.
var testTarget = target{"linux", runtime.GOARCH}

// tempDir is removed after all tests.
var tempDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if tempDir, err = os.MkdirTemp("", "release-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(tempDir) }()
		return m.Run()
	}())
}

// buildOnce writes a release that all tests share.
var buildOnce = sync.OnceValues(func() (string, error) {
	out := filepath.Join(tempDir, "dist")
	return out, run("v"+testVersion, repository, out, []string{"linux/" + runtime.GOARCH})
})

// dist returns the folder of the release that all tests share.
func dist(t *testing.T) string {
	t.Helper()
	out, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// released returns the path of the one file of the release that matches a pattern.
func released(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dist(t), pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	return files[0]
}

// unpack unpacks a tar file, which may be compressed, and returns the folder and the names.
func unpack(t *testing.T, r io.Reader, dir string) (names []string) {
	t.Helper()
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			var content []byte
			if content, err = io.ReadAll(archive); err == nil {
				err = os.WriteFile(path, content, header.FileInfo().Mode())
			}
		}
		if err == nil && os.Getuid() == 0 {
			err = os.Chown(path, header.Uid, header.Gid)
		}
		if err == nil {
			err = os.Chmod(path, header.FileInfo().Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// unpackGzip unpacks a .tar.gz of the release.
func unpackGzip(t *testing.T, pattern string) (dir string, names []string) {
	t.Helper()
	file, err := os.Open(released(t, pattern))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	return dir, unpack(t, text, dir)
}

func TestArchiveHasStaticBinaryThatKnowsItsVersion(t *testing.T) {
	folder := "sluice_" + testVersion + "_" + testTarget.String()
	dir, names := unpackGzip(t, "*.tar.gz")
	want := []string{"", "gateway", "LICENSE", "THIRD_PARTY_NOTICES.md", "README.md", "CHANGELOG.md", "gateway.yaml", "sluice.service"}
	for i := range want {
		want[i] = folder + "/" + want[i]
	}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	binary := filepath.Join(dir, folder, "gateway")
	commit := deploytest.Output(t, "git", "-C", repository, "rev-parse", "HEAD")
	if got, want := deploytest.Output(t, binary, "version"), "gateway v"+testVersion+" (commit "+commit; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if text := deploytest.Output(t, "file", "--brief", binary); !strings.Contains(text, "statically linked") {
		t.Error(text)
	}
}

// TestReleaseIsReproducible builds from a copy of the sources in another folder.
func TestReleaseIsReproducible(t *testing.T) {
	first := dist(t)
	dir := deploytest.Output(t, "git", "-C", repository, "rev-parse", "--absolute-git-dir")
	files := deploytest.Output(t, "git", "-C", repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	copied := filepath.Join(t.TempDir(), "elsewhere")
	for name := range strings.SplitSeq(strings.TrimSuffix(files, "\x00"), "\x00") {
		if err := copyFile(filepath.Join(repository, name), filepath.Join(copied, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GIT_DIR", dir)
	t.Setenv("GIT_WORK_TREE", copied)
	t.Setenv("GOFLAGS", "-buildvcs=true") // is not used
	t.Setenv("TZ", "Asia/Kolkata")
	second := filepath.Join(t.TempDir(), "dist")
	if err := run(testVersion, copied, second, []string{testTarget.os + "/" + testTarget.arch}); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(filepath.Join(second, "SHA256SUMS"))
	if err != nil || !bytes.Equal(sums, again) {
		t.Errorf("%v; first\n%ssecond\n%s", err, sums, again)
	}
}

func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if os.IsNotExist(err) {
		return nil // deleted, but not committed yet
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode())
}

func TestChecksumsAreThoseOfAllFiles(t *testing.T) {
	sums, err := os.ReadFile(filepath.Join(dist(t), "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		text, err := os.ReadFile(filepath.Join(dist(t), name))
		if err != nil {
			t.Fatal(err)
		}
		if hash := sha256.Sum256(text); hex.EncodeToString(hash[:]) != sum {
			t.Errorf("%s has another checksum", name)
		}
		names = append(names, name)
	}
	want := []string{
		"sluice-1.2.3-1." + map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + ".rpm", "sluice-1.2.3.tgz", "sluice_1.2.3_" + runtime.GOARCH + ".deb",
		"sluice_1.2.3_image.tar", "sluice_1.2.3_" + testTarget.String() + ".cdx.json", "sluice_1.2.3_" + testTarget.String() + ".tar.gz",
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

// TestSBOMIsValid checks the bill of materials against the schema of CycloneDX and against the modules
// that the binary names.
func TestSBOMIsValid(t *testing.T) {
	file := released(t, "*.cdx.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	schemas := filepath.Join(deploytest.Output(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go"), "schema")
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json", "spdx.schema.json": "spdx.schema.json",
	} {
		file, err := os.ReadFile(filepath.Join(schemas, file))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(file))
		if err == nil {
			err = compiler.AddResource("http://cyclonedx.org/schema/"+name, schema)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = schema.Validate(document)
	}
	if err != nil {
		t.Error(err)
	}
	var bom cdx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	dir, _ := unpackGzip(t, "*.tar.gz")
	info, err := buildinfo.ReadFile(filepath.Join(dir, "sluice_"+testVersion+"_"+testTarget.String(), "gateway"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"std " + info.GoVersion}
	for _, m := range info.Deps {
		want = append(want, m.Path+" "+m.Version)
	}
	var got []string
	for _, component := range *bom.Components {
		got = append(got, component.Name+" "+component.Version)
		if component.Licenses == nil || component.PackageURL == "" || component.Name != "std" && component.Hashes == nil {
			t.Errorf("%s has no licence, no URL or no checksum", component.Name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if main := bom.Metadata.Component; main.Name != "github.com/sluice-push/sluice" || main.Version != "v"+testVersion {
		t.Errorf("%s %s", main.Name, main.Version)
	}
}

func TestChartHasVersionAndAllFiles(t *testing.T) {
	chart, err := loader.LoadFile(released(t, "*.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	if chart.Metadata.Version != testVersion || chart.Metadata.AppVersion != testVersion || chart.Schema == nil || len(chart.Templates) < 10 {
		t.Errorf("version %s, %d templates", chart.Metadata.Version, len(chart.Templates))
	}
	for _, file := range chart.Files { // links in the repository
		name, found := strings.CutPrefix(file.Name, "files/")
		if want, err := filepath.Glob(repository + "/deploy/*/" + name); found && (err != nil || len(want) != 1 || string(file.Data) != string(read(t, want[0]))) {
			t.Errorf("%s: %d bytes, want those of %v, %v", file.Name, len(file.Data), want, err)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestWrongVersionsAndTargets(t *testing.T) {
	for _, c := range []struct{ version, target, want string }{
		{"", "linux/amd64", `the version is "", but must have the form 1.2.3`},
		{"1.2", "linux/amd64", `the version is "1.2"`},
		{"1.2.3", "plan9/amd64", `the target is "plan9/amd64", but must be one of linux/amd64`},
		{"1.2.3", "linux", `the target is "linux"`},
	} {
		if _, err := newRelease(c.version, repository, t.TempDir(), []string{c.target}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %v, want %s", c.version, c.target, err, c.want)
		}
	}
	if _, err := newRelease("1.2.3", repository, repository, nil); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Error(err)
	}
}

// TestPackageForRedHat reads the package with rpm.
func TestPackageForRedHat(t *testing.T) {
	deploytest.Require(t, "rpm")
	file := released(t, "*.rpm")
	if text := deploytest.Output(t, "rpm", "-K", "--nosignature", file); !strings.Contains(text, "digests OK") {
		t.Error(text)
	}
	text := deploytest.Output(t, "rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES} %{FILEFLAGS:fflags}\n]", file)
	for _, want := range []string{
		"-rwxr-xr-x root root /usr/bin/gateway \n", "-rw-r----- root sluice /etc/sluice/gateway.yaml cn\n", "drwxr-x--- root sluice /etc/sluice \n",
		"-rw-r--r-- root root /usr/lib/systemd/system/sluice.service \n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := deploytest.Output(t, "rpm", "-qp", "--scripts", file); !strings.Contains(text, "useradd") || !strings.Contains(text, "try-restart") {
		t.Error(text)
	}
}
