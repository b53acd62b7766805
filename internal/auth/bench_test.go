package auth

import (
	"crypto/elliptic"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// BenchmarkVerify measures a token that is seen for the first time, and one that is
// remembered.
func BenchmarkVerify(b *testing.B) {
	for name, k := range map[string]jose.JSONWebKey{
		"HS256": secretKey("k"), "RS256": rsaPair().Private, "ES256": ecKey("k", elliptic.P256(), "ES256"), "EdDSA": edKey("k"),
	} {
		header := "Token " + sign(b, k, good(start))
		v := verifier(b, k)
		for _, known := range []bool{false, true} {
			label := name + "/first"
			if known {
				label = name + "/known"
			}
			b.Run(label, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !known {
						v.cache.drop(header[len("Token "):])
					}
					if _, err := v.Verify(b.Context(), header); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
