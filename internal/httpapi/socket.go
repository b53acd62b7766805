package httpapi

import "net/http"

func isUpgrade(*http.Request) bool { return false }

func (h *Handler) socket(http.ResponseWriter, *http.Request) {}
