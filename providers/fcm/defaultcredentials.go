// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/oauth2/google"
)

// credentialsVariable is the environment variable with the file of the application default
// credentials.
const credentialsVariable = "GOOGLE_APPLICATION_CREDENTIALS"

// DefaultCredentials finds Google's application default credentials, and returns where it found
// them. It tries the file in GOOGLE_APPLICATION_CREDENTIALS, then gcloud's file of the current
// user, then the service account of the machine, which on Google Cloud includes Kubernetes
// workloads. It returns a Config with Account, or with MetadataServer and Project. It can send a
// request to find out whether there is a metadata server, which takes a few seconds at most.
func DefaultCredentials(ctx context.Context) (cfg Config, where string, err error) {
	if file := os.Getenv(credentialsVariable); file != "" {
		where = fmt.Sprintf("%s, %q", credentialsVariable, file)
		text, err := os.ReadFile(file)
		if err != nil {
			return cfg, where, fmt.Errorf("fcm: account: %s: cannot be read: %w", where, errors.Unwrap(err))
		}
		return Config{Account: text}, where, nil
	}
	found, err := google.FindDefaultCredentials(ctx, scope)
	switch {
	case err != nil: // err can contain what it read
		return cfg, "", errors.New("fcm: account: none found: no " + credentialsVariable + ", no usable gcloud file, no Google Cloud metadata server " +
			"(set the variable, or service_account_file)")
	case found.JSON != nil:
		return Config{Account: found.JSON}, "gcloud's application default credentials", nil
	}
	return Config{MetadataServer: true, Project: found.ProjectID}, "the machine's service account", nil
}

// DefaultCredentialsFile returns the path of the file that DefaultCredentials tries first, whether
// it exists or not.
func DefaultCredentialsFile() string {
	if file := os.Getenv(credentialsVariable); file != "" {
		return file
	}
	folder, err := os.UserHomeDir()
	folder = filepath.Join(folder, ".config")
	if runtime.GOOS == "windows" {
		folder, err = os.UserConfigDir()
	}
	if err != nil {
		return ""
	}
	return filepath.Join(folder, "gcloud", "application_default_credentials.json")
}
