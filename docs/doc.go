// Package docs holds the documentation, and tests that keep it true.
package docs
