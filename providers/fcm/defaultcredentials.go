// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/oauth2/google"
)

// credentialsVariable names the file of the application default credentials.
const credentialsVariable = "GOOGLE_APPLICATION_CREDENTIALS"

// DefaultCredentials finds what Google calls the application default credentials, and says where: the file that
// GOOGLE_APPLICATION_CREDENTIALS names; else the one that gcloud keeps for its user; else the service account of the
// machine, which on Google Cloud is also how a Kubernetes workload has an identity. It returns a Config with Account and
// Project, or Machine and Project. To know whether there is a metadata server it asks for one, for some seconds at most.
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
	case err != nil: // which may repeat what it read
		return cfg, "", errors.New("fcm: account: none found: no " + credentialsVariable + ", no usable file of gcloud's, no metadata server of Google Cloud " +
			"(set the variable, or service_account_file)")
	case found.JSON != nil:
		return Config{Account: found.JSON}, "gcloud's application default credentials", nil
	}
	return Config{MetadataServer: true, Project: found.ProjectID}, "the machine's service account", nil
}
