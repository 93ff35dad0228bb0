# The gateway, and with `mock` as its command the mock providers: one static binary and the system's root certificates.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w -X github.com/sluice-push/sluice/internal/buildinfo.commit=$(sh tools/commit.sh)" -o /gateway ./cmd/gateway && mkdir -p /empty/keys /empty/tmp /empty/var/lib/sluice

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /empty/ /
COPY --from=build /gateway /gateway
USER 65532:65532
ENTRYPOINT ["/gateway"]
